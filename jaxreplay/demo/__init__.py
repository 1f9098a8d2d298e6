"""A DQN on CartPole, environment and replay included, in one jitted program: what `python -m jaxreplay` runs."""
