"""From output to one sentence, without a secret in it."""
