"""Routes that speak other protocols: the AI SDK's, AG-UI and OpenAI's."""
