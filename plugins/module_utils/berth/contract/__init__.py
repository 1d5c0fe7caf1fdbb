"""From an inventory to apps that are checked and complete."""
