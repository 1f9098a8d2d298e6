"""The private core: the clock, the numbering of episodes, how a step lies in memory, and the two rings."""
