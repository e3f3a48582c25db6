package {{ package }}

/** The class number of each of {{ rows }}x{{ columns }} places, row by row; together they cover `part` of the photograph. */
class Answer(val classes: IntArray, val part: Part) {
    companion object {
        const val ROWS = {{ rows }}
        const val COLUMNS = {{ columns }}
    }
}

/** What the network sees in a photograph. labels: the names of the classes. */
class Answers(val labels: List<String>) {
    /** The areas of the classes. outputs: as `Network.run` gives them. */
    fun of(outputs: List<FloatArray>, part: Part): Answer {
        val values = outputs[0]
{% if form == "mask" %}
        return Answer(IntArray(values.size) { values[it].toInt() }, part)
{% elif single %}
        return Answer(IntArray(values.size) { if (values[it] > {{ cut|kotlin }}) 1 else 0 }, part)
{% else %}
        return Answer(
            IntArray(Answer.ROWS * Answer.COLUMNS) { place ->
                var best = {{ classes }} * place
                for (each in best until {{ classes }} * (place + 1)) if (values[each] > values[best]) best = each
                best - {{ classes }} * place
            },
            part
        )
{% endif %}
    }
}
