"""The embedded tabletop world: scenes, edits, dialogues, pictures. Known to assemble and the command line alone; numpy only."""
