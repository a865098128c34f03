"""`python -m benchmarks.lineage`: see the package."""

from benchmarks.lineage.chart import draw_chart
from benchmarks.lineage.page import write_page
from benchmarks.lineage.points import FOLDER, points
from benchmarks.lineage.timeline import draw_timeline

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = points()
    draw_chart(found, FOLDER / "chart.png")
    write_page(found, FOLDER / "chart.html")
    draw_timeline(FOLDER / "timeline.png")
    print(f"{len(found)} networks, {sum(point.best > point.first for point in found)} with a better recipe")
