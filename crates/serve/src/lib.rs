//! One base model and many adapters behind the HTTP interface of OpenAI.
