"""How a network is trained: configuration, optimizer, schedule, loop, ranks, trainer."""
