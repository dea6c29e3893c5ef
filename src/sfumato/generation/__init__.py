"""What a user asks for: pictures from prompts, with the recipe inside each file."""
