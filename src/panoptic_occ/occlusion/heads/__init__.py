"""Parts of heads that several methods share."""
