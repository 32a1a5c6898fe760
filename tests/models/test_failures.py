"""The failures of a model's server, in the words of each provider."""

from __future__ import annotations

import pytest

from twinwire.models.openai.failures import refused, reported

TOO_LONG = {
    "OpenAI": "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
    "OpenAI, newer": "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
    "Anthropic, with the answer": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    "Gemini": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048575).",
    "Vertex": "Unable to submit request because the input token count is 40000 but model only supports up to 32768.",
    "Mistral": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "Groq": "Please reduce the length of the messages or completion.",
    "xAI": "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "Together": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000",
    "TGI": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
    "Fireworks": "The prompt is too long: 140000, model maximum context length: 131071",
    "Cohere": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 9000.",
    "Bedrock": "Input is too long for requested model.",
    "DashScope": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
    "Moonshot": "Invalid request: Your request exceeded model token limit: 131072",
    "Zhipu": "Prompt exceeds max length",
    "MiniMax": "invalid params, context window exceeds limit (2013)",
    "OpenRouter": "This endpoint's maximum context length is 8192 tokens. However, you requested about 9000 tokens.",
    "vLLM": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "llama.cpp": "the request exceeds the available context size, try increasing it",
    "LM Studio": "The number of tokens to keep from the initial prompt is greater than the context length.",
    "Ollama": "the input length exceeds the context length",
    "GitHub Models": {"code": "tokens_limit_exceeded", "message": "Request body too large for this model."},
    "Copilot": {
        "code": "model_max_prompt_tokens_exceeded",
        "message": "token count of 9 exceeds the limit of 8",
    },
    "watsonx": "the number of input tokens 9000 cannot exceed the total tokens limit 8192 for this model",
    "LiteLLM": "litellm.ContextWindowExceededError: the request was refused",
}
OTHER = {
    "a bound on the answer": "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
    "a bad field": "Unsupported value: 'temperature' does not support 0.5 with this model.",
    "a tool's name": "Invalid 'tools[0].function.name': string too long. Expected a maximum length of 64.",
    "a bad message": "messages.1: all messages must have non-empty content",
}


@pytest.mark.parametrize("provider", TOO_LONG)
def test_a_conversation_that_is_too_long(provider: str) -> None:
    """It is told as such, as an answer of status 400 and in the middle of a stream, with no word of the server's."""
    said = TOO_LONG[provider]
    error = said if isinstance(said, dict) else {"message": said}
    told = [refused(400, {"error": error}), refused(0, error), reported(error)]
    assert [one.code for one in told] == ["upstream_context_length"] * 3
    assert told[0].message == "The conversation is too long for the model (400)."


@pytest.mark.parametrize("what", OTHER)
def test_another_refusal(what: str) -> None:
    """A refusal for another reason is not taken for a conversation that is too long."""
    assert refused(400, {"error": {"message": OTHER[what]}}).code == "upstream_rejected"


@pytest.mark.parametrize(
    "words",
    [
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 4000.",
        "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000.",
        "Resource has been exhausted (e.g. check quota).",
        "Too many tokens per minute, please wait before trying again.",
    ],
)
def test_rate_limits(words: str) -> None:
    """A rate limit is one by status 429, and by its words in a stream or with status 413."""
    assert {refused(status, {"message": words}).code for status in (429, 413, 0)} == {"upstream_rate_limited"}
