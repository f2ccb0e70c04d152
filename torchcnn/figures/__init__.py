"""All that is drawn: results, networks, what is inside of them, and the page to walk through."""
