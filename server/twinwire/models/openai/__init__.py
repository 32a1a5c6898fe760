"""A model behind an OpenAI-compatible server: its connections, its chunks, and what an agent is given of them."""
