"""Recording seeds and actions, so that episodes can be played exactly again."""
