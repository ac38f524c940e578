"""What a run is, as one HTML file for people: its parts are sections, page.py writes them."""
