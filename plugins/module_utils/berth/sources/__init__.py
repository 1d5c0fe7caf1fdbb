"""Getting an app's code to the server."""
