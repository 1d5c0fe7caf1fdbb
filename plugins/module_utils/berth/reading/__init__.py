"""What a source tells of itself, read and never run."""
