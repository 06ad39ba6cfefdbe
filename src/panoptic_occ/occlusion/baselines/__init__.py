"""Orders that learn nothing: score, area, random, class prior, annotations."""
