"""The log in Redis Streams, which many workers share."""
