"""All that is drawn with Matplotlib: results, networks, and what is inside of them."""
