"""One deploy, rollback or removal: what is to be done, and the steps that do it."""
