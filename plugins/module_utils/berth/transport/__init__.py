"""How the controller reaches the engine on the server, and what it is asked for there."""
