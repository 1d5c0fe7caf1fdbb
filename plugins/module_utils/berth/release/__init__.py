"""The release engine: what runs on the server during a deploy, and how the controller talks to it."""

# Part of every fingerprint: raise it when a release built by an older engine must be built again.
ENGINE_VERSION = "2"
