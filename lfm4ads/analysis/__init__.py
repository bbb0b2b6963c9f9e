"""Reading finished runs and showing what they say: tables, pictures, one offline page."""
