package {{ package }}

{% if cut == 0 %}
import kotlin.math.exp

{% endif %}
/** A class, with its number from 0, and its score. */
data class Answer(val index: Int, val label: String, val score: Float)

/** What the network says of a photograph. labels: the names of the classes. */
class Answers(private val labels: List<String>) {
    /** The classes with the highest scores, the highest first. outputs: as `Network.run` gives them. */
    fun of(outputs: List<FloatArray>, @Suppress("UNUSED_PARAMETER") part: Part, count: Int = 3): List<Answer> {
{% if cut is none %}
        val scores = outputs[0]
{% else %}
{% if cut == 0 %}
        val second = 1 / (1 + exp(-outputs[0][0]))
{% else %}
        val second = outputs[0][0]
{% endif %}
        val scores = floatArrayOf(1 - second, second)
{% endif %}
        return scores.indices.sortedByDescending { scores[it] }.take(count).map { Answer(it, labels[it], scores[it]) }
    }
}
