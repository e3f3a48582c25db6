package {{ package }}

{% if form == "raw" %}
import kotlin.math.exp
{% endif %}
{% if form != "nms" %}
import kotlin.math.max
import kotlin.math.min
{% endif %}

/** An object: its class, with the number from 0, its score, and its box in pixels of the photograph. */
data class Answer(val index: Int, val label: String, val score: Float, val box: Part)

/** What the network sees in a photograph. labels: the names of the classes.{% if form == "raw" %} anchors: rows of y and x of the centre, height, width.{% endif %} */
class Answers(private val labels: List<String>{% if form == "raw" %}, private val anchors: List<FloatArray>{% endif %}) {
    /** The objects with at least the score `threshold`, the highest first. outputs: as `Network.run` gives them. */
    fun of(outputs: List<FloatArray>, part: Part, threshold: Float = 0.5f): List<Answer> {
{% if form == "nms" %}
        val (boxes, classes, scores) = outputs
        return (0 until outputs[3][0].toInt()).filter { scores[it] >= threshold }.map {
            answer(classes[it].toInt(), scores[it], boxes[4 * it], boxes[4 * it + 1], boxes[4 * it + 2], boxes[4 * it + 3], part)
        }
    }
{% else %}
        val (boxes, scores) = outputs
        val candidates = mutableListOf<Answer>()
        for (place in scores.indices) {
            val index = place % {{ classes + 1 }} - 1 // -1 is the background
            if (index < 0 || scores[place] < threshold) continue
            val anchor = place / {{ classes + 1 }}
{% if form == "raw" %}
            val (y, x, h, w) = anchors[anchor].toList()
            val (ty, tx, th, tw) = boxes.slice(4 * anchor until 4 * anchor + 4)
            val (centreY, centreX) = Pair(y + ty / {{ scales[0]|kotlin }} * h, x + tx / {{ scales[1]|kotlin }} * w)
            val (halfHeight, halfWidth) = Pair(h * exp(th / {{ scales[2]|kotlin }}) / 2, w * exp(tw / {{ scales[3]|kotlin }}) / 2)
            candidates += answer(
                index, scores[place], centreY - halfHeight, centreX - halfWidth, centreY + halfHeight, centreX + halfWidth, part
            )
{% else %}
            val (top, left, bottom, right) = boxes.slice(4 * anchor until 4 * anchor + 4)
            candidates += answer(index, scores[place], top, left, bottom, right, part)
{% endif %}
        }
        // Non-maximum suppression: of two boxes of a class that overlap, the box with the higher score stays.
        val answers = mutableListOf<Answer>()
        for (each in candidates.sortedByDescending { it.score }) {
            if (answers.none { it.index == each.index && overlap(it.box, each.box) > {{ overlap|kotlin }} }) answers += each
        }
        return answers
    }

    /** Intersection over union of two boxes. */
    private fun overlap(one: Part, other: Part): Float {
        val width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
        val height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
        val common = max(width, 0f) * max(height, 0f)
        return common / (one.width * one.height + other.width * other.height - common)
    }
{% endif %}

    /** top, left, bottom, right: as shares of the part of the photograph that the network was given. */
    private fun answer(
        index: Int, score: Float, top: Float, left: Float, bottom: Float, right: Float, part: Part
    ): Answer {
        val (width, height) = Pair((right - left) * part.width, (bottom - top) * part.height)
        return Answer(index, labels[index], score, Part(part.left + left * part.width, part.top + top * part.height, width, height))
    }
}
