"""The mathematics made visible: one page that shows what a schedule, a posterior, a score and a sampler do.

Every number and picture on it is computed by the functions that train and sample, and stands beside their names.
"""
