"""From scores to pages: rows, intervals, verdicts, pictures, the site."""
