"""Files that run by themselves: copied into releases, or run as another user by their text."""
