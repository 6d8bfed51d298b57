"""The ultrasound of a PACS as what is annotated."""
