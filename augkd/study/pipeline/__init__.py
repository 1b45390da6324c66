"""How the study's stages run: one notebook a stage, what each rests on, several side by side."""
