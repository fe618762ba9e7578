"""The pages: their HTML, charts and number formats, scripts and style sheets."""
