"""Third floor: windows for people. They show views and pass on what is asked for."""
