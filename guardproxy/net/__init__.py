"""Third floor: sockets and timers. It carries out what the core decides, and decides nothing."""
