"""Second floor, sans-I/O: servers, who has them, and who waits for them."""
