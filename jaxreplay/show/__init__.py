"""`python -m jaxreplay show PATH`: one HTML file that shows a data set or a recording, without a network."""
