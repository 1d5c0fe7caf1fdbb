"""The steps of a release, one file each; `table` has their order."""
