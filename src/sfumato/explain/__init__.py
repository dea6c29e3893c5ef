"""The mathematics made visible: one page that shows what a schedule, a posterior, a score and a sampler do.

The functions that train and sample compute every number and picture on it; their names stand beside the results.
"""
