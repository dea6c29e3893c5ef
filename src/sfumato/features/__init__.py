"""The spaces in which drawn pictures are compared with real ones."""
