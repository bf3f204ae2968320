"""Jobs out to the executor, events back in, and what makes sure that neither is lost."""
