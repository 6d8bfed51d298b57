"""What goes back to the PACS: segmentation, structured report, preview; each checked before it leaves."""
