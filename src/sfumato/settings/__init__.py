"""The groups of a recipe, one idea in each file; `sfumato.config` joins them."""
