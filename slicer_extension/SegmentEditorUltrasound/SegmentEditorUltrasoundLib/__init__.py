"""The Segment Editor effect of ultrasound prompts."""
