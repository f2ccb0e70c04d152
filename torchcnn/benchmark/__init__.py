"""How fast training is, and how much memory it takes, against other ways."""
