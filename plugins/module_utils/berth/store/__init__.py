"""What lies on the server between runs."""
