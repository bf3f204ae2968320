"""Who calls: principals, tokens, keys."""
