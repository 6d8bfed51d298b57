"""Self-distillation on unlabelled ultrasound: DINOv2's recipe, as UltraDINO (paper B) trains with it."""
