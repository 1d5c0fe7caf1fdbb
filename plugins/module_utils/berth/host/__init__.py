"""What the operating system offers: commands, sandboxes, accounts, files that others wrote."""
