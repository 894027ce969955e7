"""`make load`: a scenario of loadtests/scenarios against a server, and whether its criteria held."""
