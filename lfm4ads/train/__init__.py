"""One loop for every stage that learns, and its evaluation."""
