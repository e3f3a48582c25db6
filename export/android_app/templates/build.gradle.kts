plugins {
    // Since version 9, the Android Gradle plugin compiles Kotlin itself.
    id("com.android.application") version "{{ versions.gradle_plugin }}" apply false
{% if packed %}
    id("com.android.ai-pack") version "{{ versions.gradle_plugin }}" apply false
{% endif %}
}
