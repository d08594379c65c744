//! Preference losses, reward models and reinforcement learning on one base model.
