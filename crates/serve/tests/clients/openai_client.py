"""The OpenAI client against a running server.

    pip install -r crates/serve/tests/clients/requirements.txt
    flametune serve                      # in another terminal
    python crates/serve/tests/clients/openai_client.py [URL] [--adapter NAME]

Exits with an error at the first thing that is not as the client expects it.
"""

import argparse
import json

import openai

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def check(name, good, what=""):
    print(("ok   " if good else "FAIL ") + name, what)
    if not good:
        raise SystemExit(1)


def models(client, base):
    listed = [model.id for model in client.models.list()]
    check("models.list", base in listed, listed)
    check("models.retrieve", client.models.retrieve(base).id == base)


def chat(client, base):
    answer = client.chat.completions.create(
        model=base, messages=QUESTION, temperature=0, max_tokens=24
    )
    text = answer.choices[0].message.content
    check("chat", bool(text) and answer.usage.completion_tokens <= 24, repr(text))
    check("finish_reason", answer.choices[0].finish_reason in ("stop", "length"))
    stream = client.chat.completions.create(
        model=base,
        messages=QUESTION,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    check("streaming says the same", "".join(pieces) == text)
    check("usage in the stream", usage is not None and usage.total_tokens == answer.usage.total_tokens)


def sampling(client, base):
    def draw(seed):
        answer = client.chat.completions.create(
            model=base, messages=QUESTION, temperature=1.2, seed=seed, max_tokens=16, n=3
        )
        return [choice.message.content for choice in answer.choices]

    first = draw(5)
    check("n", len(first) == 3 and len(set(first)) > 1, first)
    check("seed repeats", first == draw(5))
    check("seeds differ", first != draw(6))


def stop(client, base):
    whole = client.chat.completions.create(
        model=base, messages=QUESTION, temperature=0, max_tokens=24
    ).choices[0].message.content
    cut = whole[len(whole) // 2 : len(whole) // 2 + 4]
    answer = client.chat.completions.create(
        model=base, messages=QUESTION, temperature=0, max_tokens=24, stop=[cut]
    )
    check("stop", answer.choices[0].message.content == whole[: whole.index(cut)], repr(cut))
    check("stop reason", answer.choices[0].finish_reason == "stop")


def logprobs(client, base):
    answer = client.chat.completions.create(
        model=base, messages=QUESTION, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    content = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in content).decode()
    check("logprobs cover the text", text.startswith(choice.message.content), repr(text))
    check("greedy takes the first", all(t.top_logprobs[0].token == t.token for t in content))
    check("they are logarithms", all(t.logprob <= 0 for t in content))
    answer = client.completions.create(
        model=base, prompt="The capital of France is", max_tokens=1, temperature=0, logprobs=2, echo=True
    )
    lists = answer.choices[0].logprobs
    check("completions echo", answer.choices[0].text.startswith("The capital of France is"))
    check("the first token has none", lists.token_logprobs[0] is None and lists.token_logprobs[1] < 0)


def structured(client, base):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=base,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        temperature=0,
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content)
    check("json_schema", set(value) == {"city", "people"} and isinstance(value["people"], int), value)
    answer = client.chat.completions.create(
        model=base,
        messages=[{"role": "user", "content": "Answer yes or no: is Paris in France?"}],
        temperature=0,
        max_tokens=10,
        extra_body={"guided_choice": ["yes", "no"]},
    )
    check("guided_choice", answer.choices[0].message.content in ("yes", "no"))


def errors(client, base):
    def refused(kind, **change):
        arguments = {"model": base, "messages": QUESTION, "max_tokens": 4} | change
        try:
            client.chat.completions.create(**arguments)
        except kind as error:
            check(kind.__name__, bool(error.body["message"]), error.body["message"])
        else:
            check(kind.__name__, False, change)

    refused(openai.NotFoundError, model="no-such-model")
    refused(openai.BadRequestError, temperature=-1)
    refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 100_000}])
    refused(openai.BadRequestError, messages=[])
    refused(openai.BadRequestError, n=1000)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--adapter", help="the name of an adapter that is loaded")
    parser.add_argument("--key", default="none", help="where the server asks for one")
    parser.add_argument("--no-guided", action="store_true", help="the server was built without it")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url + "/v1", api_key=arguments.key, max_retries=0)
    base = next(iter(client.models.list())).id
    models(client, base)
    chat(client, base)
    sampling(client, base)
    stop(client, base)
    logprobs(client, base)
    errors(client, base)
    if not arguments.no_guided:
        structured(client, base)
    if arguments.adapter:
        models(client, arguments.adapter)
        chat(client, arguments.adapter)


main()
