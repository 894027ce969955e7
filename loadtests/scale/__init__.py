"""How the cost of a server grows: with its connections, with the length of lines, with its workers."""
